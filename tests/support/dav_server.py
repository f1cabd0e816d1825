"""A real WebDAV server: Apache with mod_dav from Debian, for one user.

Rules:
 * It listens on loopback only, keeps everything in one folder, and dies with the process that
   started it.
 * Started by root it runs as ``www-data``, as Apache refuses to be root.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from support.servers import free_ports, wait_until_it_listens

PACKAGES = "apache2-bin"
USER = "fedfs"
_APACHE = "/usr/sbin/apache2"
_MODULES = "/usr/lib/apache2/modules"
_CONFIGURATION = """\
ServerName 127.0.0.1
Listen 127.0.0.1:{port}
Listen 127.0.0.1:{tls_port}
ServerRoot {folder}
PidFile {folder}/pid
ErrorLog {folder}/log
DocumentRoot {folder}/data
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authn_core_module {modules}/mod_authn_core.so
LoadModule authn_file_module {modules}/mod_authn_file.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule authz_user_module {modules}/mod_authz_user.so
LoadModule auth_basic_module {modules}/mod_auth_basic.so
LoadModule dav_module {modules}/mod_dav.so
LoadModule dav_fs_module {modules}/mod_dav_fs.so
LoadModule ssl_module {modules}/mod_ssl.so
<VirtualHost 127.0.0.1:{tls_port}>
  SSLEngine on
  SSLCertificateFile {folder}/certificate.pem
  SSLCertificateKeyFile {folder}/key.pem
</VirtualHost>
DavLockDB {folder}/locks
Mutex file:{folder} default
<Directory {folder}/data>
  Dav On
  AuthType Basic
  AuthName fedfs
  AuthUserFile {folder}/users
  Require valid-user
  LimitRequestBody {limit_bytes}
</Directory>
"""


def missing_programs() -> list[str]:
    """Return the programs that are needed and not installed."""
    return [name for name in (_APACHE, "openssl", "setpriv") if not shutil.which(name)]


class DavServer:
    """Apache on a free port.

    Attributes:
        folder: holds everything, and ``data`` for what is served.
        password: of the only user.
        port, tls_port: of the server.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fedfs-dav-"))
        self.data = self.folder / "data"
        self.data.mkdir()
        self.password = secrets.token_hex(8)
        self._process: subprocess.Popen[bytes] | None = None
        self.port, self.tls_port = free_ports(2)
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=fedfs",
                   "-addext", "subjectAltName=IP:127.0.0.1", "-keyout",
                   f"{self.folder}/key.pem", "-out", str(self.authority)]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
        (self.folder / "users").write_text(f"{USER}:{_sha1(self.password)}\n")
        text = _CONFIGURATION.format(
            port=self.port,
            tls_port=self.tls_port,
            folder=self.folder,
            modules=_MODULES,
            limit_bytes=limit_bytes,
        )
        (self.folder / "apache.conf").write_text(text)
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("www-data")
            self._as_user = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
            for path in (self.folder, *self.folder.rglob("*")):
                os.chown(path, user.pw_uid, user.pw_gid)
        self.start()

    @property
    def authority(self) -> Path:
        """The file of the certificate, which is its own authority."""
        return self.folder / "certificate.pem"

    def url(self, name: str, *, port: int = 0) -> str:
        """Return the URL of a folder beneath the served one."""
        return f"webdav://{USER}@127.0.0.1:{port or self.port}/{name}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [_APACHE, "-f", str(self.folder / "apache.conf"), "-D", "FOREGROUND"]
        with (self.folder / "out").open("ab") as out:
            self._process = subprocess.Popen(
                ["setpriv", *self._as_user, "--pdeathsig", "TERM", *command],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        wait_until_it_listens(self._process, self.port, self.folder / "out")

    def stop(self) -> None:
        """End the server and all its connections."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None


def _sha1(password: str) -> str:
    digest = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    return "{SHA}" + base64.b64encode(digest).decode()


@contextlib.contextmanager
def running(*, limit_bytes: int = 16 << 20) -> Iterator[DavServer]:
    """Run a server as long as the block does; it takes files of up to so many bytes, 0 for all."""
    server = DavServer(limit_bytes)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)
