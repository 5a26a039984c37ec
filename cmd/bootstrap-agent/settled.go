package main

import (
	"context"
	"os"
	"time"
)

// loadSettled is load for the daemon. What makes a config bad may be that it is
// half written: the path unit starts the daemon as soon as the file is there, and
// forgets what happens to it until the daemon has ended. So a bad one counts only
// when the file stays as it is for a moment.
func (a *app) loadSettled(ctx context.Context, l *loader) (*loaded, error) {
	pause := a.pause
	if pause == nil {
		pause = pauseFor
	}
	for {
		before := stampOf(l.file)
		good, err := l.load()
		if err == nil {
			return good, nil
		}
		if pause(ctx, settle); ctx.Err() != nil || stampOf(l.file) == before {
			return nil, err
		}
	}
}

// stamp tells one state of a file from another; the zero value is: not there.
type stamp struct {
	changed time.Time
	size    int64
	mode    os.FileMode
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	return stamp{info.ModTime(), info.Size(), info.Mode()}
}

// pauseFor waits for d, or until ctx ends.
func pauseFor(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
