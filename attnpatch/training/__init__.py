"""Recipe in, trained parameters out.

>>> recipe = load_recipe("flux/sandbox", {"training.max_steps": 2})
>>> packs = Mixture(recipe, tokenizer).packs(step=0)
"""

from attnpatch.training.mixture import Mixture
from attnpatch.training.problems import DataError, RecipeError
from attnpatch.training.recipe import Recipe, load_recipe, recipe_names
from attnpatch.training.samples import Pack, Sample

__all__ = ["DataError", "Mixture", "Pack", "Recipe", "RecipeError", "Sample", "load_recipe", "recipe_names"]
