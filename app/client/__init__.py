"""A client of the REST API: a method for each route, exports as they come, files in pieces.

from app.client import Client

client = Client("https://plackett.example.org", token)
for row in client.rows(project_id, "trl"):
    ...
"""

from app.client.connection import Found, StillRunningError, reaching
from app.client.files import Client

__all__ = ["Client", "Found", "StillRunningError", "reaching"]
