"""Every call of the API as a value: what to send, and how to read the response. A module for each
noun; what is common to them is in `build` and `read`.

What is not Postback's becomes BadAnswer.
"""
