//! Tests over real sockets on loopback.
