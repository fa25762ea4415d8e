# METADATA
# title: Obligations
# description: What the gateway must do when a job runs. It refuses those it does not know.
package gateway.obligations

# METADATA
# description: Give out nothing but these, out of weights, dp_metrics and receipt.
outputs(names) := {"type": "outputs", "value": names}

# METADATA
# description: Run at most so many jobs on the data set at a time.
max_parallel_jobs(limit) := {"type": "max_parallel_jobs", "value": limit}

# METADATA
# description: Keep results back for so many hours.
release_delay_hours(hours) := {"type": "release_delay_hours", "value": hours}

# METADATA
# description: How jobs are kept apart, per_job or per_client_group.
isolation(kind) := {"type": "isolation", "value": kind}
