"""Hospitals and an aggregator around a shared folder, with the real nnU-Net on tiny images.

They take turns in this process, as cron would start them; with the fixture ``in_one_process`` what
they run in processes of their own is run here, too.
"""

from __future__ import annotations

import time
from types import SimpleNamespace

from synthetic import DATASET, LABELS, make_paths, write_dataset

from fedfs.exchange.read import open_study
from fedfs.nnunet.allowed import classes
from fedfs.nnunet.system.environment import HostSettings
from fedfs.roles.aggregator.config import AggregatorConfig
from fedfs.roles.aggregator.run import run_aggregator
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.roles.coordinator.begin import init_study
from fedfs.roles.coordinator.options import StudyOptions
from fedfs.roles.coordinator.roster import approve_sites
from fedfs.roles.reader import export
from fedfs.roles.site.config import JoinConfig, SiteConfig
from fedfs.roles.site.join import join
from fedfs.roles.site.run import run_site
from fedfs.store import open_store

SMALL = {"UNet_base_num_features": 4, "UNet_max_features_2d": 8, "UNet_max_features_3d": 8}


def quiet(_progress):
    return None


class Hospitals:
    """Sites and an aggregator around a shared folder."""

    def __init__(self, folder, monkeypatch, sites, *, pretrained=None, **options):
        self.folder, self.monkeypatch, self.sites = folder, monkeypatch, sites
        self.url = str(folder / "store")
        self.paths = {site: make_paths(folder / site) for site in sites}
        for number, (site, n_cases) in enumerate(sites.items()):
            write_dataset(self.paths[site].raw, n_cases, shape=(12, 40, 40), seed=number)
        content = {"channel_names": {"0": "MRI"}, "labels": LABELS, "file_ending": ".nii.gz"}
        settings = {
            "name": "test", "dataset_json": content, "rounds": 1, "local_iterations": 2,
            "val_iterations": 1, "min_sites": len(sites), "planner_options": SMALL, **options,
        }  # fmt: skip
        chosen = StudyOptions(**settings)
        self.store = open_store(self.url, must_exist=False)
        self.charter = init_study(
            self.store,
            self.home("coordinator"),
            chosen,
            clock=time.time,
            versions=classes.versions(),
            pretrained=pretrained,
        )
        for site in sites:
            self.at(site)
            join(JoinConfig(self.url, site, DATASET, self.home(site)), quiet)
        approve_sites(Coordinator(self.store, self.home("coordinator"), clock=time.time), None)

    def home(self, host):
        return self.folder / host / "home"

    def at(self, site):
        for name, value in self.paths[site].variables().items():
            self.monkeypatch.setenv(name, value)

    def run_site(self, site, **options):
        self.at(site)
        host = HostSettings(device="cpu", num_processes=1, skip_broken=True)
        config = SiteConfig(self.url, site, self.home(site), once=True, host=host, **options)
        return run_site(config, quiet)

    def run_aggregator(self):
        folder = self.folder / "coordinator" / "work"
        config = AggregatorConfig(self.url, self.home("coordinator"), folder=folder, once=True)
        return run_aggregator(config, quiet)

    def run(self, **options):
        for _ in range(20):
            done = [self.run_site(site, **options).finished for site in self.sites]
            if all([*done, self.run_aggregator().finished]):
                return self
        raise AssertionError("not finished")

    def final(self, site, root=""):
        """nnU-Net's checkpoint of a site's model on its first track; ``root``: of which results."""
        (found,) = (self.paths[site].results / root).glob("Dataset*/*/fold_*/checkpoint_final.pth")
        return found

    def observe(self):
        return open_study(self.store)

    def export(self):
        made = export.export_versions(self.store, self.folder / "out")
        return SimpleNamespace(
            models=made,
            instructions=export.export_choice(self.store, made),
            root=self.folder / "out",
        )
