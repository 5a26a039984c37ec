package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bootstrap-agent/bootstrap-agent/cmd/bootstrap-agent/view"
)

// terminal returns the file behind a reader or writer if it is a terminal.
func terminal(stream any) (*os.File, bool) {
	f, ok := stream.(*os.File)
	if !ok {
		return nil, false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return f, err == nil
}

// style says what the terminal behind a stream can do. Without one there is no
// colour, and letters beyond ASCII only where the locale has them.
func (a *app) style(stream any) view.Style {
	st := view.Style{Unicode: a.unicodeLocale(), Now: time.Now()}
	f, ok := terminal(stream)
	if !ok {
		st.Width = 100
		return st
	}
	dumb := a.getenv("TERM") == "dumb"
	st.Colour = a.getenv("NO_COLOR") == "" && !dumb
	if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
		st.Width = int(size.Col)
	}
	return st
}

func (a *app) unicodeLocale() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if value := a.getenv(name); value != "" {
			value = strings.ToLower(value)
			return strings.Contains(value, "utf-8") || strings.Contains(value, "utf8")
		}
	}
	return false
}

// readSecret reads at most limit bytes from stdin. On a terminal it asks for
// one line and does not echo it; the echo comes back whatever happens.
func (a *app) readSecret(ctx context.Context, prompt string, limit int64) (string, error) {
	f, ok := terminal(a.stdin)
	if !ok {
		data, err := io.ReadAll(io.LimitReader(a.stdin, limit+1))
		if err != nil {
			return "", fmt.Errorf("cannot read stdin: %w", err)
		}
		if int64(len(data)) > limit {
			return "", fmt.Errorf("stdin holds more than %d bytes", limit)
		}
		return string(data), nil
	}
	fd := int(f.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return "", fmt.Errorf("cannot ask on this terminal: %w", err)
	}
	silent := *before
	silent.Lflag &^= unix.ECHO
	silent.Lflag |= unix.ICANON | unix.ISIG
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &silent); err != nil {
		return "", fmt.Errorf("cannot switch off the echo: %w", err)
	}
	defer func() {
		_ = unix.IoctlSetTermios(fd, unix.TCSETS, before)
		_, _ = fmt.Fprintln(a.stderr)
	}()
	_, _ = fmt.Fprint(a.stderr, prompt)
	type answer struct {
		text string
		err  error
	}
	answers := make(chan answer, 1)
	go func() { // a read of a terminal cannot be interrupted; after Ctrl-C it is left alone
		buffer := make([]byte, limit)
		n, err := f.Read(buffer)
		answers <- answer{string(buffer[:n]), err}
	}()
	select {
	case <-ctx.Done():
		return "", fmt.Errorf("cannot read the terminal: %w", ctx.Err())
	case got := <-answers:
		if got.err != nil && got.err != io.EOF { //nolint:errorlint // Read returns io.EOF itself
			return "", fmt.Errorf("cannot read the terminal: %w", got.err)
		}
		return got.text, nil
	}
}
