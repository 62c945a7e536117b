"""TOFC with one part replaced: its merging (Table I of the paper) or its entropy coding (Fig. 12)."""
