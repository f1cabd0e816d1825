"""HTTPS before a server that speaks HTTP: nginx from Debian, as a hospital puts it before a bucket.

Rules:
 * It listens on loopback only, keeps everything in one folder, and dies with the process that
   started it.
 * Each kind of trouble has a port of its own.
"""

from __future__ import annotations

from support.certificates import Authority
from support.servers import Server, free_ports, missing_of

PACKAGES = "nginx-light"
_NGINX = "/usr/sbin/nginx"
_CONFIGURATION = """\
daemon off; master_process off; pid {folder}/pid; error_log stderr warn;
events {{ worker_connections 256; }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  proxy_request_buffering off; proxy_http_version 1.1;
  {servers}
}}
"""
_SERVER = """
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {certificate}; ssl_certificate_key {certificate};
    client_max_body_size {limit};
    location / {{ proxy_pass http://127.0.0.1:{behind}; proxy_set_header Host $http_host; }}
  }}
"""
_PORTS = ("good", "expired", "other_name", "limited")
LIMIT = "1m"
"""Largest body that the port ``limited`` takes, which is nginx's default."""


def missing_programs() -> list[str]:
    """Return the programs that are needed and not installed."""
    return missing_of(_NGINX, "setpriv")


class HttpsFront(Server):
    """nginx before a port of this host.

    Args:
        behind: the port.

    Attributes:
        authority: file of the authority that signed all certificates.
        stranger: file of another authority.
        ports: by the kind of trouble; ``good`` has none.
    """

    def __init__(self, behind: int) -> None:
        super().__init__("nginx")
        folder = self.folder
        authority = Authority(folder / "authority.pem")
        self.authority = authority.path
        self.stranger = Authority(folder / "stranger.pem").path
        self.ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        authority.issue(folder / "good", ["127.0.0.1"])
        authority.issue(folder / "expired", ["127.0.0.1"], days=-1)
        authority.issue(folder / "other_name", ["s3.hospital.example"])
        authority.issue(folder / "limited", ["127.0.0.1"])
        servers = [
            _SERVER.format(port=port, certificate=folder / name, behind=behind,
                           limit=LIMIT if name == "limited" else 0)
            for name, port in self.ports.items()
        ]  # fmt: skip
        text = _CONFIGURATION.format(folder=folder, servers="".join(servers))
        (folder / "nginx.conf").write_text(text)
        command = [_NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")]
        self.launch(command, self.ports["good"])

    def endpoint(self, trouble: str = "good") -> str:
        """Return the URL of a port."""
        return f"https://127.0.0.1:{self.ports[trouble]}"
