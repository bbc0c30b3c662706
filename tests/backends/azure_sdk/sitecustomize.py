# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Empty modules in place of what azure.azcollection imports of Azure's SDK and its general modules do not use."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

PACKAGES = ("azure", "kiota_authentication_azure", "msgraph", "msgraph_core")
ENDPOINTS = SimpleNamespace(
    active_directory="https://login.microsoftonline.com",
    resource_manager="https://management.azure.com/",
)


class Empty(ModuleType):
    """Has whatever class is asked for."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class Finder:
    """Comes last, so that what is installed goes before."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        return ModuleSpec(name, Finder, is_package=True) if name.split(".")[0] in PACKAGES else None

    @staticmethod
    def create_module(spec):
        return Empty(spec.name)

    @staticmethod
    def exec_module(module):
        if module.__name__ == "azure.cli.core":  # the one part that counts: where the public cloud is
            module.cloud = SimpleNamespace(AZURE_PUBLIC_CLOUD=SimpleNamespace(endpoints=ENDPOINTS))


sys.meta_path.append(Finder)
