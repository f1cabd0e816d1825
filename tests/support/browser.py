"""A page in headless Chromium: what its scripts make of it, and what axe finds."""

import html
import json
import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

in_a_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium"
)

RULES = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}


def browse(path: Path, tmp_path: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Open a page in headless Chromium; what it holds after its scripts have run."""
    return subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000",
         "--enable-logging=stderr", *flags, "--dump-dom", path.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip


def accessibility(page: str, folder: Path, scheme: str) -> dict[str, Any]:
    """What axe finds by WCAG 2.1 A and AA in a page: contrast, names, roles, order, tables."""
    axe = resources.files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    check = f"""
        axe.run({json.dumps({"runOnly": RULES})}).then((found) => {{
          const out = document.createElement("pre");
          out.id = "axe";
          out.textContent = JSON.stringify({{
            dark: matchMedia("(prefers-color-scheme: dark)").matches,
            passes: found.passes.map((rule) => rule.id),
            violations: found.violations.map((rule) => [
              rule.id, rule.nodes.map((node) => node.html + node.failureSummary),
            ]),
          }});
          document.body.append(out);
        }});"""
    # A page that allows itself no script would refuse this one, too.
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    path = folder / "accessible.html"
    path.write_text(
        page.replace("</body>", f"<script>{axe}</script><script>{check}</script></body>")
    )
    number = {"dark": 0, "light": 1}[scheme]
    done = browse(path, folder, f"--blink-settings=preferredColorScheme={number}")
    match = re.search(r'<pre id="axe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert match is not None
    found: dict[str, Any] = json.loads(html.unescape(match[1]))
    return found
