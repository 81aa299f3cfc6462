"""The inbox on PostgreSQL: several replicas share one."""
