//go:build lab

package main

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// labFile changes clock and pace of a lab build. It is read at each look at the
// clock, so that a test can step the clock of a running agent; the pace is read
// at the start.
const labFile = "/etc/bootstrap-agent/lab.json"

// labMark stands in the binary, so that a test of the packages can see that no
// lab build was shipped.
const labMark = "bootstrap-agent-lab-build"

// labSettings is the content of labFile. Durations are written as Go writes them
// ("-48h", "5s"); the keys of pace are the names of agent.Pace's fields.
type labSettings struct {
	Mark        string
	ClockOffset string
	Pace        map[string]string
	// Stuck lets a call in the loop (the look at the kubelet's unit) never return,
	// not even when it is told to: what the watchdog is for.
	Stuck bool
}

func init() {
	version += "+lab"
	laboratory = func(deps *agent.Deps) {
		deps.Clock = labClock{deps.Clock}
		deps.Units = labUnits{deps.Units}
		settings := readLab()
		for name, field := range map[string]*time.Duration{
			"LocalCheck": &deps.Pace.LocalCheck, "APICheck": &deps.Pace.APICheck, "VanishGrace": &deps.Pace.VanishGrace,
			"EagerFirst": &deps.Pace.EagerFirst, "UnauthorizedGap": &deps.Pace.UnauthorizedGap,
			"NamesakeAtLeast": &deps.Pace.NamesakeAtLeast, "NamesakeEvery": &deps.Pace.NamesakeEvery,
			"ServerDead": &deps.Pace.ServerDead, "ChangeGap": &deps.Pace.ChangeGap,
			"Backstop": &deps.Pace.Backstop, "Signed": &deps.Pace.Signed, "Reissued": &deps.Pace.Reissued,
			"Slow": &deps.Pace.Slow, "Blocked": &deps.Pace.Blocked,
		} {
			if d, err := time.ParseDuration(settings.Pace[name]); err == nil {
				*field = d
			}
		}
	}
}

func readLab() labSettings {
	settings := labSettings{Mark: strings.Clone(labMark)}
	if data, err := os.ReadFile(labFile); err == nil {
		_ = json.Unmarshal(data, &settings)
	}
	return settings
}

// labClock shows another wall clock. Monotonic time and timers are the real ones.
type labClock struct{ agent.Clock }

// Now is the wall clock plus the offset of labFile.
func (c labClock) Now() time.Time {
	offset, err := time.ParseDuration(readLab().ClockOffset)
	if err != nil {
		offset = 0
	}
	return c.Clock.Now().Add(offset)
}

// labUnits is the real systemd, with a call that may get stuck.
type labUnits struct{ agent.Units }

// Unit asks systemd, unless labFile says Stuck.
func (u labUnits) Unit(ctx context.Context, name string) (systemd.Unit, error) {
	for readLab().Stuck {
		<-time.After(time.Second)
	}
	return u.Units.Unit(ctx, name)
}
