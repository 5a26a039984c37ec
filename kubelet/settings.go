package kubelet

import (
	"encoding/json"
	"strconv"
)

// Settings are those values of a kubelet's effective configuration that decide
// whether it starts on this machine.
type Settings struct {
	// Complete: the file that everything else is laid over is known, so what is
	// not set has the kubelet's default. Otherwise the cluster may still set it.
	Complete bool

	FailSwapOn            *bool  // nil: not set; the default is true
	FailCgroupV1          *bool  // nil: not set; the default is true from 1.35 on
	ProtectKernelDefaults bool   // the kernel's settings must be right already
	CgroupDriver          string // "": not set; the default is cgroupfs
	Address               string // "": not set; the default is every address
	Port                  int    // 0: not set; the default is 10250
}

// Settings reads them. A value of a wrong kind counts as not set: the kubelet
// itself will say what is wrong with it.
func (l Layers) Settings() (Settings, error) {
	s := Settings{Complete: len(l.Config) > 0}
	err := l.documents(func(_ string, doc document) error {
		s.take(doc)
		return nil
	})
	if err != nil {
		return Settings{}, err
	}
	for _, arg := range l.Args {
		s.takeFlag(arg)
	}
	return s, nil
}

func (s *Settings) take(doc document) {
	if v, ok := doc["failSwapOn"].(bool); ok {
		s.FailSwapOn = &v
	}
	if v, ok := doc["failCgroupV1"].(bool); ok {
		s.FailCgroupV1 = &v
	}
	if v, ok := doc["protectKernelDefaults"].(bool); ok {
		s.ProtectKernelDefaults = v
	}
	if v, ok := doc["cgroupDriver"].(string); ok && v != "" {
		s.CgroupDriver = v
	}
	if v, ok := doc["address"].(string); ok && v != "" {
		s.Address = v
	}
	if v, ok := doc["port"].(json.Number); ok {
		s.takePort(v.String())
	}
}

func (s *Settings) takeFlag(arg string) {
	value, given := cutFlag(arg)
	flag := func(at **bool) {
		v := !given // a bare flag means true
		if given {
			var err error
			if v, err = strconv.ParseBool(value); err != nil {
				return
			}
		}
		*at = &v
	}
	switch flagName(arg) {
	case "fail-swap-on":
		flag(&s.FailSwapOn)
	case "fail-cgroupv1":
		flag(&s.FailCgroupV1)
	case "protect-kernel-defaults":
		protect := &s.ProtectKernelDefaults
		flag(&protect)
		s.ProtectKernelDefaults = *protect
	case "cgroup-driver":
		s.CgroupDriver = value
	case "address":
		s.Address = value
	case "port":
		s.takePort(value)
	}
}

func (s *Settings) takePort(text string) {
	if n, err := strconv.ParseUint(text, 10, 16); err == nil && n > 0 {
		s.Port = int(n)
	}
}
