"""What the receiver of compose.yaml hands each completion to, once: your code stands here."""

from receiver import Event, Receiver

receiver = Receiver()  # configured by the RECEIVER_* variables


@receiver.on("completed", "failed", "cancelled", "timeout")
def finished(event: Event) -> None:
    print(event.job_id, event.status, event.output, flush=True)
