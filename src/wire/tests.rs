//! Properties of the wire format.
