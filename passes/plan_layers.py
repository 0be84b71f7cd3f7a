"""sites + config → Plan: the M and N that were given, for each layer that may be quantized; a reason for the others.

    layers[s] = config.plan_for(s.name)      for every site s that has no reason to stay float

No graph is read or changed, and the same sites and config give the same plan. A site stays float because of its own
reason (match), an `exclude` rule, an `include` rule that does not name it, a filter that says no, or because it is the
first or the last layer that could be quantized and nothing names it; the reasons are tried in this order.

Before and after::

    >>> sites = [LayerSite(name, "linear", (8, 8)) for name in ("embed", "body", "head")]
    >>> sites += [LayerSite("mix", "bilinear", (8, 8, 8), reason="no binary form")]
    >>> plan = plan_layers(sites, Config(M=3, N=2, overrides={"body": {"N": 1}}))
    >>> for name, layer in plan.layers.items():
    ...     print(name, layer.weight_bases, layer.activation_bases)
    body 3 1
    >>> for name, reason in plan.reasons.items():
    ...     print(name, "-", reason.split(" (")[0])
    embed - the first layer stays float by default
    head - the last layer stays float by default
    mix - no binary form
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from abcfx.config import Config
from abcfx.debug import SKIPPED, skips
from abcfx.plan import LayerPlan, LayerSite, Plan


def plan_layers(sites: Sequence[LayerSite], config: Config, accept: Callable[[str], bool] = lambda name: True) -> Plan:
    """A plan for `sites`, in execution or registration order; `accept(name)` may refuse more of them."""
    layers: dict[str, LayerPlan] = {}
    reasons: dict[str, str] = {}
    ends = _ends(sites, config)
    for site in sites:
        reason = site.reason or config.reason_to_skip(site.name)
        if reason is None and skips(site.name):
            reason = SKIPPED
        if reason is None and not accept(site.name):
            reason = "filter_fn said no"
        if reason is None and site.name in ends and not config.names(site.name):
            reason = (
                f"the {ends[site.name]} layer stays float by default (first_last_float=False or include changes that)"
            )
        if reason is None:
            layers[site.name] = config.plan_for(site.name)
        else:
            reasons[site.name] = reason
    return Plan(layers, reasons)


def _ends(sites: Sequence[LayerSite], config: Config) -> dict[str, str]:
    """The first and the last layer that could be quantized; none if there is only one."""
    able = [site.name for site in sites if site.reason is None]
    return {able[-1]: "last", able[0]: "first"} if config.first_last_float and len(able) > 1 else {}
