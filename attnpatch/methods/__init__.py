"""The methods that ship, registered by name and imported on first use: one method, one file (or one folder)."""

from attnpatch.patching.method import register_lazy

for _name, _target in {
    "stock": "stock:Stock",
    "sliding": "sliding:Sliding",
    "stochastic": "stochastic:Stochastic",
    "triangle": "triangle:Triangle",
    "xattention": "xattention:XAttention",
    "flux": "flux.method:Flux",
    "pai": "vision.pai:PAI",
    "paint": "vision.paint:PAINT",
    "devils": "vision.devils:Devils",
    "locore": "vision.locore:LocoRE",
    "gift": "vision.gift:GIFT",
    "var": "vision.var:VAR",
    "vhr": "vision.vhr:VHR",
}.items():
    register_lazy(_name, f"attnpatch.methods.{_target}")
