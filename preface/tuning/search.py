"""A search for a learning rate."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from preface.tuning.recipe import Recipe


class Search(BaseModel):
    """A short training of every rate, to choose one by development score before the long training."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    steps: int = Field(ge=1)
    seeds: int = Field(1, ge=1)

    def within(self, steps: int) -> Search:
        """The search, of at most so many steps."""
        return self.model_copy(update={"steps": min(steps, self.steps)})

    def shortened(self, recipe: Recipe) -> Recipe:
        """The recipe of the search: evaluating the development split after each third is enough to choose by."""
        seeds, every = tuple(range(self.seeds)), -(-self.steps // 3)
        return recipe.model_copy(update={"steps": self.steps, "seeds": seeds, "evaluate_every": every})
