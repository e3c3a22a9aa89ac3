"""The hidden input by which a node finds the request that it runs for."""

# Set by the server in a prompt it queues; absent in the web page's own runs.
TOKEN = {"hidden": {"token": ("STRING", {"default": ""})}}
