"""Reconciliation: a job that stays silent past its time is asked for at its status URL."""
