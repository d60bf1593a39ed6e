"""Tributary's client: LLM decoding over KV that lies in the host memory of other processes.

    from tributary import Client

    with Client("127.0.0.1:7000") as client:
        for token in client.generate([1, 2, 3], max_tokens=16).tokens():
            print(token)

tributary.aio has the same for asyncio, tributary.text tokenizers and chat templates, tributary.serve the server.
"""

from tributary.client import Client, Generation
from tributary.errors import (DeadlineError, InvalidRequestError, NotFoundError, OutOfRangeError, OverloadedError,
                              PreconditionError, RequestCancelledError, ServerError, TributaryError, UnavailableError)
from tributary.events import Accepted, Event, Prefill, Resumed, Stalled, Summary, Tokens
from tributary.request import GenerateRequest, Keep, Placement, Policy, Sampling
from tributary.tls import Tls

__all__ = [
    "Accepted", "Client", "DeadlineError", "Event", "GenerateRequest", "Generation", "InvalidRequestError", "Keep",
    "NotFoundError", "OutOfRangeError", "OverloadedError", "Placement", "Policy", "PreconditionError", "Prefill",
    "RequestCancelledError", "Resumed", "Sampling", "ServerError", "Stalled", "Summary", "Tls", "Tokens",
    "TributaryError", "UnavailableError",
]
__version__ = "0.1.0"
