"""What this server asks of others for a client: images to fetch, results to upload, webhooks to call."""

from ..hosts import UrlHosts
from .fetching import Fetcher
from .network import Network
from .uploads import Uploader
from .webhooks import Webhooks


class Outbound:
    """All ways out of this server, to `hosts` only; `secret` signs the webhooks."""

    def __init__(self, hosts: UrlHosts, secret: str | None, network: Network) -> None:
        self.hosts = hosts
        self.fetcher = Fetcher(hosts, network)
        self.uploader = Uploader(network)
        self.webhooks = Webhooks(network, secret)

    async def close(self) -> None:
        """Closes all connections; webhooks that have not been delivered are logged as lost."""
        await self.webhooks.close()
        await self.fetcher.close()
        await self.uploader.close()
