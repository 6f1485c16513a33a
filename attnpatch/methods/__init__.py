"""The methods that ship, registered by name and imported on first use: one method, one file."""

from attnpatch.patching.method import register_lazy

for _name, _class in {
    "stock": "Stock",
    "sliding": "Sliding",
    "stochastic": "Stochastic",
}.items():
    register_lazy(_name, f"attnpatch.methods.{_name}:{_class}")
