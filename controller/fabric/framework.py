"""The one place where Ryu or os-ken is chosen. Both have the same classes; this hides what differs.

``auto`` takes Ryu where it imports, else os-ken, its maintained successor. Ryu runs on eventlet's green
threads, os-ken on native ones; after :func:`load` the standard library's sockets, threads and queues do
the right thing for either. Call it before anything else opens sockets or makes locks.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from geneve.errors import ConfigError

NAMES = ("ryu", "os-ken")
"""The frameworks, in the order in which ``auto`` tries them."""

_PACKAGES = {"ryu": "ryu", "os-ken": "os_ken"}

log = logging.getLogger("controller")


@dataclass(frozen=True)
class Framework:
    """A loaded framework."""

    name: str
    version: str
    package: str

    def module(self, name: str) -> Any:
        """Return a module of the framework, such as ``controller.ofp_event``."""
        return importlib.import_module(f"{self.package}.{name}")

    def spawn(self, function: Callable[..., object], *arguments: object) -> Any:
        """Run ``function`` at the same time as the caller; an exception in it is logged."""
        return self.module("lib.hub").spawn(function, *arguments)

    @property
    def app_class(self) -> Any:
        """The base class of applications."""
        module = self.module("base.app_manager")
        return module.RyuApp if self.name == "ryu" else module.OSKenApp

    def run(self, app: type, address: str, port: int) -> None:
        """Listen for switches on ``address`` and ``port`` and run ``app``; returns when all has ended."""
        self.module("controller.controller")  # registers the options that are set below
        options = self.module("cfg").CONF
        options([], project=self.package, default_config_files=[])
        options.set_override("ofp_listen_host", address)
        options.set_override("ofp_tcp_listen_port", port)
        manager = self.module("base.app_manager").AppManager.get_instance()
        manager.load_apps([f"{self.package}.controller.ofp_handler"])
        manager.applications_cls["controller.fabric.app"] = app
        services = manager.instantiate_apps(**manager.create_contexts())
        self.module("lib.hub").joinall(services)


def load(name: str = "auto") -> Framework:
    """Import a framework and prepare this process for it; ConfigError when it cannot be had."""
    reasons = []
    for candidate in NAMES if name == "auto" else (name,):
        try:
            return _load_ryu() if candidate == "ryu" else _load_os_ken()
        except Exception as error:  # old packages fail in many ways on import, not with ImportError alone
            reasons.append(f"{candidate}: {type(error).__name__}: {error}")
            log.debug("%s cannot be used: %s", candidate, error)
    raise ConfigError(f"no OpenFlow framework can be used ({'; '.join(reasons)}); install os-ken or Ryu.")


def _load_ryu() -> Framework:
    with warnings.catch_warnings():
        # eventlet asks its users to move on; Ryu cannot, and os-ken is the way for whoever can.
        warnings.simplefilter("ignore")
        wsgi = importlib.import_module("eventlet.wsgi")
    if not hasattr(wsgi, "ALREADY_HANDLED"):
        # Ryu 4.34 imports this name, which eventlet 0.30.3 removed. It is only compared with, never made.
        wsgi.ALREADY_HANDLED = object()  # type: ignore[attr-defined]
    version = importlib.import_module("ryu").version
    hub = importlib.import_module("ryu.lib.hub")
    importlib.import_module("ryu.base.app_manager")  # a broken installation must show before the patch
    hub.patch()
    return Framework("ryu", str(version), _PACKAGES["ryu"])


def _load_os_ken() -> Framework:
    from importlib.metadata import version

    importlib.import_module("os_ken.base.app_manager")
    end_connections_at_once(importlib.import_module("os_ken.controller.controller").Datapath)
    return Framework("os-ken", version("os-ken"), _PACKAGES["os-ken"])


def end_connections_at_once(datapath_class: Any) -> None:
    """Have a connection that the switch ended count as ended at once.

    os-ken 4.2 first waits for the thread that sends, and that one for something to send: a second, or for ever.
    """
    receive = datapath_class._recv_loop

    def receive_and_end(datapath: Any) -> None:
        try:
            receive(datapath)
        finally:
            datapath.close()
            datapath.send(b"")  # wakes the thread that sends, which then finds the connection closed

    datapath_class._recv_loop = receive_and_end
