"""Engine of the filters: it loads them, runs them over records, and keeps their outcomes."""

from filters.engine.chain import Chain
from filters.engine.executor import Executor
from filters.engine.filter import FilterSpec, load_filters
from filters.engine.funnel import Funnel
from filters.engine.outcome_store import OutcomeStore

__all__ = ["Chain", "Executor", "FilterSpec", "Funnel", "OutcomeStore", "load_filters"]
