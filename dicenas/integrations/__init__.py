"""The candidate ops and networks in other libraries' terms; each module needs its own library only."""
