package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/sirupsen/logrus"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
)

// settle is how long files must be quiet before they are read: editors and
// deployment tools write in several steps.
const settle = 300 * time.Millisecond

// reloadOnChange loads the config again on SIGHUP and when the config, token or
// discovery file changes, or `apply` wants something, and hands in what came of
// it. stop ends it and waits for it.
func (a *app) reloadOnChange(ctx context.Context, l *loader, log *logrus.Logger, reload func(agent.Config, error)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	w := &fileWatch{log: log, order: a.paths.OrderFile()}
	w.follow(append([]string{l.file}, l.filesNow()...)...)
	var running sync.WaitGroup
	running.Go(func() {
		defer signal.Stop(hup)
		defer w.close()
		quiet := time.NewTimer(time.Hour)
		quiet.Stop()
		defer quiet.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-hup:
				quiet.Reset(0)
			case event := <-w.events():
				if w.concerns(event) {
					quiet.Reset(settle)
				}
			case err := <-w.errors():
				log.WithError(err).Warn("cannot watch the config file, use SIGHUP")
			case <-quiet.C:
				good, err := l.load()
				if err == nil {
					a.setLog(log, good.settings)
					w.follow(append([]string{l.file}, followed(good.settings)...)...)
					reload(good.agent, nil)
					continue
				}
				reload(agent.Config{}, err)
			}
		}
	})
	return func() { cancel(); running.Wait() }
}

// filesNow are the files that are awaited, as far as the config tells: also a bad
// one, which may be bad because of such a file.
func (l *loader) filesNow() []string {
	content, err := readConfigFile(l.file)
	if err != nil {
		content = configFile{}
	}
	merged, _, _ := l.merge(content)
	return followed(merged)
}

// fileWatch watches files by their folders: a file that is replaced by rename
// is another one.
type fileWatch struct {
	log     logrus.FieldLogger
	watcher *fsnotify.Watcher
	files   map[string]bool
	order   string // of `apply`: that it is there wakes the loop, which takes it
}

func (w *fileWatch) follow(paths ...string) {
	if w.watcher == nil {
		watcher, err := fsnotify.NewWatcher()
		if err != nil {
			w.log.WithError(err).Warn("cannot watch the config file, use SIGHUP")
			return
		}
		w.watcher = watcher
	}
	w.files = map[string]bool{}
	for _, p := range append(paths, w.order) {
		w.files[filepath.Clean(p)] = true
		// A folder that is not there is no fault: the token may never be a file.
		_ = w.watcher.Add(filepath.Dir(p))
	}
}

func (w *fileWatch) events() chan fsnotify.Event {
	if w.watcher == nil {
		return nil
	}
	return w.watcher.Events
}

func (w *fileWatch) errors() chan error {
	if w.watcher == nil {
		return nil
	}
	return w.watcher.Errors
}

// concerns says whether an event is about a watched file's content. Chmod alone
// counts, too: a mode that was too open may have been mended.
func (w *fileWatch) concerns(e fsnotify.Event) bool {
	path := filepath.Clean(e.Name)
	return w.files[path] && (path != w.order || e.Has(fsnotify.Create))
}

func (w *fileWatch) close() {
	if w.watcher != nil {
		_ = w.watcher.Close()
	}
}
