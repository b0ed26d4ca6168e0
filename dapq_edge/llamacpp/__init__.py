"""Everything that touches llama.cpp: bindings of the patch, contexts, devices, private members."""
