"""The Python client of Sluice: recommendations, and feedback that is sent in the background.

It needs httpx and nothing of the service.
"""

from sluice.client import AsyncClient, Client
from sluice.errors import BufferFull, Closed, ServiceError, SluiceClientError, Unavailable
from sluice.events import Event
from sluice.feedback import AsyncFeedback, Batching, Feedback
from sluice.results import Counts, Item, ItemList, Merge, Model, Outcome, Reason, Slate
from sluice.retries import Retries

__all__ = [
    "AsyncClient",
    "AsyncFeedback",
    "Batching",
    "BufferFull",
    "Client",
    "Closed",
    "Counts",
    "Event",
    "Feedback",
    "Item",
    "ItemList",
    "Merge",
    "Model",
    "Outcome",
    "Reason",
    "Retries",
    "ServiceError",
    "Slate",
    "SluiceClientError",
    "Unavailable",
]
