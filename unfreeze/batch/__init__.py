"""Jobs over very many images: split into blocks, resumed after a kill, on one machine or on a Ray cluster."""
