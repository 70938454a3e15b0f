"""Pictures in and out: references, decoding, the store, previews."""
