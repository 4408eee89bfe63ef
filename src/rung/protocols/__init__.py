"""Wire formats. Each protocol is one file of codecs over `ports.Directory`; `http` carries them all."""
