// Package record is what the agent keeps on disk between two runs: where its
// folders are (Paths), who is at work (Lock), which cluster was accepted on what
// grounds (Trust, trust.json) and what was written and done here (Manifest,
// manifest.json). The daemon, `apply`, `adopt` and `reset` share it.
//
// It never decides anything, never holds a secret (of a token only its id) and
// never stores where a join stands: that is observed. A record that is missing or
// damaged reads as none, because each can be made anew; errors are those of the
// file system (fault.WriteFailed) and of a lock that is held (fault.Locked).
package record
