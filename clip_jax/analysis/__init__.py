"""What compiled programs need, and what accelerators have."""
