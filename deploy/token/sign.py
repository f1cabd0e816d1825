#!/usr/bin/env python3
"""Sign standard input with an Ed25519 key on a token, for ``fedfs key create --external``.

A token is whatever speaks PKCS#11. This needs the package PyKCS11 (``pip install PyKCS11``, or
Debian's ``python3-pykcs11``) and the library of the token's maker. All is signed in one call:
Ed25519 knows no pieces, and what ``pkcs11-tool`` signs ends at 1 KiB for that reason.

    sign.py --module LIBRARY --token LABEL --id 01 --pin-file FILE < message > signature
    sign.py --module LIBRARY --token LABEL --id 01 --public-key
"""

import argparse
import base64
import pathlib
import sys

import PyKCS11
from PyKCS11 import LowLevel

EDDSA = 0x1057
KEY_BYTES = 32


def main() -> None:
    """Parse the command line, find the key, sign or show it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--module", required=True, help="library of the token's maker")
    parser.add_argument("--token", required=True, help="label of the token")
    parser.add_argument("--id", default="01", help="of the key, hexadecimal")
    parser.add_argument("--pin-file", type=pathlib.Path, help="file that only its owner can read")
    parser.add_argument("--public-key", action="store_true", help="print it, and sign nothing")
    options = parser.parse_args()
    if not options.public_key and options.pin_file is None:
        parser.error("signing needs --pin-file")
    library = PyKCS11.PyKCS11Lib()
    library.load(options.module)
    slots = library.getSlotList(tokenPresent=True)
    labels = {library.getTokenInfo(slot).label.strip(): slot for slot in slots}
    if options.token not in labels:
        sys.exit(f"there is no token {options.token!r}, only {sorted(labels)}")
    session = library.openSession(labels[options.token])
    if not options.public_key:
        session.login(options.pin_file.read_text().strip())
    kind = LowLevel.CKO_PUBLIC_KEY if options.public_key else LowLevel.CKO_PRIVATE_KEY
    wanted = [(LowLevel.CKA_CLASS, kind), (LowLevel.CKA_ID, tuple(bytes.fromhex(options.id)))]
    found = session.findObjects(wanted)
    if len(found) != 1:
        sys.exit(f"{len(found)} keys of the token have the id {options.id}")
    if options.public_key:
        (point,) = session.getAttributeValue(found[0], [LowLevel.CKA_EC_POINT])
        sys.stdout.write(base64.b64encode(bytes(point)[-KEY_BYTES:]).decode() + "\n")
    else:
        mechanism = PyKCS11.Mechanism(EDDSA, None)
        signature = session.sign(found[0], sys.stdin.buffer.read(), mechanism)
        sys.stdout.buffer.write(bytes(signature))


if __name__ == "__main__":
    main()
