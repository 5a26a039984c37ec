package main

import (
	"context"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// The path unit starts the daemon on a file that somebody is still writing.
func TestTheDaemonJudgesAConfigOnlyWhenItHasBeenLeftAlone(t *testing.T) {
	const half = "apiVersion: bootstrap-agent/v1\nendp"
	for _, tt := range []struct {
		name   string
		states []string // of the file: as it is found, and after each pause; it stays as the last one
		pauses int
		good   bool
	}{
		{"a good one is taken at once", []string{goodConfig}, 0, true},
		{"a bad one that stays is refused after one pause", []string{half}, 1, false},
		{"one that is being written is read again", []string{half, goodConfig}, 1, true},
		{"slowly, too", []string{"", "apiV", half, goodConfig}, 3, true},
		{"one that ends bad is refused", []string{"", half + "oints: 7\n"}, 2, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDoor(t)
			d.write("token", goodToken+"\n", 0o600)
			d.write("config.yaml", tt.states[0], 0o600)
			pauses := 0
			d.app.pause = func(_ context.Context, pause time.Duration) {
				if pauses++; pauses >= len(tt.states) {
					return
				}
				d.write("config.yaml", tt.states[pauses], 0o600)
			}
			good, err := d.app.loadSettled(t.Context(), d.app.loader(d.app.runCommand().Flags()))
			if pauses != tt.pauses || (err == nil) != tt.good || tt.good != (good != nil) || !tt.good && fault.ReasonOf(err) != fault.ConfigInvalid {
				t.Errorf("%d pauses, want %d; %v", pauses, tt.pauses, err)
			}
		})
	}
	t.Run("a stop ends the wait", func(t *testing.T) {
		d := newDoor(t)
		d.write("config.yaml", half, 0o600)
		d.app.pause = nil
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := d.app.loadSettled(ctx, d.app.loader(d.app.runCommand().Flags())); fault.ReasonOf(err) != fault.ConfigInvalid {
			t.Error(err)
		}
	})
}
