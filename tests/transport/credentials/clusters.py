"""Keys for tests: whole clusters as `ps-keys` makes them, good ones and bad ones."""

from datetime import UTC, datetime, timedelta

from leeway.ps.keys.cluster import Cluster
from leeway.transport.credentials.credentials import Credentials
from leeway.transport.credentials.tls import KeyPair

NAMES = ("127.0.0.1", "localhost")


class Keys:
    """In `folder`, with `workers`."""

    def __init__(self, folder, workers=("w0", "w1"), hosts=NAMES):
        self.folder = folder
        Cluster(folder, datetime.now(UTC)).make(hosts, workers, 90)

    def end(self, name, in_seconds=-3600):
        """Have that one's certificate end then."""
        Cluster(self.folder, datetime.now(UTC) + timedelta(days=-1, seconds=in_seconds)).renew((name,), 1)

    def renew(self, name):
        Cluster(self.folder, datetime.now(UTC)).renew((name,), 90)

    def of(self, name):
        if name == "server":
            return self.folder / name
        return self.folder / ("people" if name in ("admin", "reader") else "workers") / name

    def pair(self, name):
        return KeyPair(self.of(name) / "cert.pem", self.of(name) / "key.pem")

    @property
    def ca(self):
        return self.folder / "ca.pem"

    def credentials(self, name, ca=True, pair=True):
        """What that one shows, or some of it."""
        folder = self.of(name)
        files = (folder / "cert.pem", folder / "key.pem") if pair else (None, None)
        return Credentials.chosen({}, folder / "token", self.ca if ca else None, *files)

    def variables(self, name):
        folder = self.of(name)
        return {
            "PS_TOKEN_FILE": str(folder / "token"),
            "PS_TLS_CA": str(folder / "ca.pem"),
            "PS_TLS_CERT": str(folder / "cert.pem"),
            "PS_TLS_KEY": str(folder / "key.pem"),
        }

    def secrets(self):
        """All that nobody may see, by what it is."""
        found = {}
        for path in self.folder.rglob("*"):
            if path.name == "token":
                found[f"the token of {path.parent.name}"] = path.read_text().strip()
            elif path.name in ("key.pem", "ca.key"):
                # A line from the middle: wherever a key is, it is.
                found[f"the key of {path.parent.name}"] = path.read_text().splitlines()[2]
        return found
