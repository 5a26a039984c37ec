package main

import (
	"io"

	"github.com/sirupsen/logrus"
)

// newLogger makes the logger that all rooms write to: stderr, text or JSON, no
// time stamp and a <N> priority under the journal, which keeps its own time.
func (a *app) newLogger(s settings) *logrus.Logger {
	log := logrus.New()
	log.SetOutput(a.stderr)
	a.setLog(log, s)
	return log
}

// setLog applies the keys of the section log, also after a reload.
func (a *app) setLog(log *logrus.Logger, s settings) {
	if level, err := logrus.ParseLevel(s.text("log.level")); err == nil {
		log.SetLevel(level)
	}
	log.SetFormatter(a.logFormatter(s.text("log.format")))
}

// silence is a logger for commands that print what they find themselves.
func silence() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}
