//! Tests of the files driver as a whole.
