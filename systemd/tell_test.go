package systemd

import (
	"context"
	"strings"
	"testing"
)

func TestJournalAndShowSayWhatSystemdsProgramsSay(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/secret")
	echo := journalctl(t, `echo "$* $NOTIFY_SOCKET"`)
	m := NewManager(Options{Journalctl: echo, Systemctl: echo})
	defer m.Close()
	if got, err := m.Journal(t.Context(), KubeletUnit, 7); err != nil || got != "--no-pager --quiet --utc --output=short-iso-precise --lines=7 --unit=kubelet.service \n" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := m.Show(t.Context(), KubeletUnit, "A", "B"); err != nil || got != "show --no-pager --property=A --property=B kubelet.service \n" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := m.Show(t.Context(), "", "Version"); err != nil || got != "show --no-pager --property=Version \n" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestJournalAndShowFail(t *testing.T) {
	failing := journalctl(t, "echo half; echo 'no bus' >&2; exit 3")
	m := NewManager(Options{Journalctl: failing, Systemctl: failing})
	defer m.Close()
	for name, ask := range map[string]func(ctx context.Context, unit string) (string, error){
		"journal": func(ctx context.Context, unit string) (string, error) { return m.Journal(ctx, unit, 3) },
		"show":    func(ctx context.Context, unit string) (string, error) { return m.Show(ctx, unit, "A") },
	} {
		if got, err := ask(t.Context(), KubeletUnit); err == nil || got != "half\n" || !strings.Contains(err.Error(), "exit status 3: no bus") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if got, err := ask(t.Context(), "--vacuum-size=1"); err == nil || got != "" {
			t.Errorf("%s of no unit: %q, %v", name, got, err)
		}
	}
}
