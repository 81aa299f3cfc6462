"""The verbs of jobs and endpoints, on either database. An endpoint's row in `endpoint_load` is the
lock of all its queues and jobs, as a lane's is of its deliveries."""
