// Package hostile holds tests that run the program as it is packaged, as a
// process of its own, against a server that lies in every way it can, and look at
// what that costs: memory, time, what is shown, and every byte that the server
// has heard. What each rule refuses is tested in the rooms, in-process; here is
// shown that the whole program keeps its bounds.
//
// It never contacts anything but loopback, never needs root, and never gives the
// program a limit that it has not set itself (no GOMEMLIMIT, no ulimit).
//
//	attack -> server -> bootstrap-agent check --cluster -> reason, bytes, seconds, memory
package hostile
