"""Types of K and V in the files of a store."""

# half of the bytes, or as they are in a cache of f16
STORE_TYPES = Q8_0, F16 = "q8_0", "f16"
