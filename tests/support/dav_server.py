"""A real WebDAV server: Apache with mod_dav from Debian, for one user.

Rules:
 * It listens on loopback only, keeps everything in one folder, and dies with the process that
   started it.
 * Started by root it runs as ``www-data``, as Apache refuses to be root.
"""

from __future__ import annotations

import base64
import hashlib
import os
import pwd
import secrets
import subprocess

from support.certificates import Authority
from support.servers import Server, free_ports, missing_of

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
    return missing_of(_APACHE, "setpriv")


class DavServer(Server):
    """Apache on a free port.

    Args:
        limit_bytes: of files; 0 for none.

    Attributes:
        authority: file of the authority that signed its certificate.
        data: folder that is served.
        password: of the only user.
        port, tls_port: of the server.
    """

    def __init__(self, limit_bytes: int = 16 << 20) -> None:
        super().__init__("dav")
        self.data = self.folder / "data"
        self.data.mkdir()
        self.password = secrets.token_hex(8)
        self.port, self.tls_port = free_ports(2)
        authority = Authority(self.folder / "authority.pem")
        self.authority = authority.path
        authority.issue(self.folder / "certificate.pem", ["127.0.0.1"])
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

    def url(self, name: str, *, port: int = 0) -> str:
        """Return the URL of a folder beneath the served one."""
        return f"webdav://{USER}@127.0.0.1:{port or self.port}/{name}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [_APACHE, "-f", str(self.folder / "apache.conf"), "-D", "FOREGROUND"]
        self.launch(command, self.port, ends_by="TERM", as_user=self._as_user)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()


def _sha1(password: str) -> str:
    digest = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    return "{SHA}" + base64.b64encode(digest).decode()
