"""The samples of TensorOne's document, with nothing changed but where they go and whose key they
bring; and its function that verifies, indented again."""

import hashlib
import hmac
from typing import Final

DOCUMENT: Final = """\
curl -X POST "https://api.tensorone.ai/v2/endpoints/ep_document_gen/runasync" \\
-H "Authorization: Bearer YOUR_API_KEY" \\
-H "Content-Type: application/json" \\
-d '{
"input": {
"prompt": "Create a comprehensive business plan for a tech startup",
"pages": 50,
"include_financials": true,
"industry": "artificial_intelligence"
},
"async": true,
"callbackUrl": "https://myapp.com/webhooks/document-ready"
}'
"""
IMAGES: Final = """\
curl -X POST "https://api.tensorone.ai/v2/endpoints/ep_image_processor/runasync" \\
-H "Authorization: Bearer YOUR_API_KEY" \\
-H "Content-Type: application/json" \\
-d '{
"input": {
"images": [
"https://example.com/image1.jpg",
"https://example.com/image2.jpg",
"https://example.com/image3.jpg"
],
"operations": ["resize", "enhance", "watermark"],
"output_format": "webp"
},
"async": true,
"priority": "high",
"tags": {
"batch_id": "batch_20240115_001",
"user_id": "user_789"
}
}'
"""
VIDEO: Final = """\
curl -X POST "https://api.tensorone.ai/v2/endpoints/ep_video_processor/runasync" \\
-H "Authorization: Bearer YOUR_API_KEY" \\
-H "Content-Type: application/json" \\
-d '{
"input": {
"video_url": "https://example.com/large-video.mp4",
"operations": {
"transcode": {
"resolution": "1080p",
"codec": "h264",
"bitrate": "5000k"
},
"thumbnail": {
"count": 10,
"format": "jpg"
}
}
},
"async": true,
"callbackUrl": "https://myapp.com/webhooks/video-processed",
"priority": "normal"
}'
"""
STATUS: Final = """\
curl -X GET "https://api.tensorone.ai/v2/jobs/job_1234567890abcdef/status" \\
-H "Authorization: Bearer YOUR_API_KEY"
"""
SUBMITS: Final = {
    "ep_document_gen": DOCUMENT,
    "ep_image_processor": IMAGES,
    "ep_video_processor": VIDEO,
}


def verify_webhook(payload: str, signature: str, secret: str) -> bool:
    expected = hmac.new(secret.encode("utf-8"), payload.encode("utf-8"), hashlib.sha256).hexdigest()
    return hmac.compare_digest(f"sha256={expected}", signature)
