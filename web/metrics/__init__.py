"""What is counted, and `GET /metrics`, where all web processes answer as one."""
