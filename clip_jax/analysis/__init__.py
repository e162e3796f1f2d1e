"""What compiled programs need, and what TPUs have."""
