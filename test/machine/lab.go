// Package machine boots throwaway Debian machines: systemd as first process, a
// network of their own, an address of this host that they all reach. A machine
// is an overlay over one shared root folder, run by systemd-nspawn; it boots in
// about two seconds.
//
// Everything a machine is made of lives in namespaces whose first process dies
// with this one, so even after kill -9 no process, mount or network namespace
// stays; folders, cgroups and the address on lo are removed by the next run. It
// never boots over the host's own root folder, never touches the host's network
// beyond its own veth pairs and one address on lo (198.18.0.0/15), and machines
// have no way out to other networks.
//
//	Open --> *Lab{Address} --New--> *Machine --Boot--> Run, WriteFile, Reboot, KillHard --Close--> gone
package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/await"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/cache"
)

// slotKind names our slots in the cache; perLab is how many machines of one lab
// can exist at a time (a /30 each in a /24).
const (
	slotKind = "machines"
	perLab   = 64
)

// Lab is this process's share of the host: one address and up to 64 machines.
type Lab struct {
	Address string // of this host, reached by every machine of this lab
	log     cluster.Log
	base    context.Context // Open's, without its end: to clean up is due after that too
	root    string
	slot    *cache.Slot
	mu      sync.Mutex // guards used
	used    map[int]*Machine
}

// Open makes the root folder if need be, removes what earlier runs left, and
// puts the lab's address on lo.
func Open(ctx context.Context, log cluster.Log) (*Lab, error) {
	if reasons := Missing(true); len(reasons) > 0 {
		return nil, errors.New(strings.Join(reasons, "; "))
	}
	root, err := BuildRoot(ctx, log)
	if err != nil {
		return nil, err
	}
	slot, err := cache.Take(slotKind, func(n int, dir string) error { return clean(ctx, n, dir) })
	if err != nil {
		return nil, err
	}
	l := &Lab{Address: address(slot.N), log: log, base: context.WithoutCancel(ctx), root: root, slot: slot, used: map[int]*Machine{}}
	// Not "replace": a lab with another cache folder would share our numbers.
	if err := ip(ctx, "address", "add", l.Address+"/32", "dev", "lo"); err != nil {
		return nil, errors.Join(fmt.Errorf("%w (a lab with another LAB_CACHE has it, or left it)", err), slot.Release())
	}
	return l, nil
}

// Close closes the machines that are still there and gives everything back.
// Twice is once, and nil is closed.
func (l *Lab) Close() error {
	if l == nil || l.slot == nil {
		return nil
	}
	l.mu.Lock()
	left := make([]*Machine, 0, len(l.used))
	for _, m := range l.used {
		left = append(left, m)
	}
	l.mu.Unlock()
	var faults []error
	for _, m := range left {
		faults = append(faults, m.Close())
	}
	ctx, cancel := context.WithTimeout(l.base, killGrace)
	defer cancel()
	faults = append(faults, clean(ctx, l.slot.N, l.slot.Dir), l.slot.Release())
	l.slot = nil
	return errors.Join(faults...)
}

// New prepares a machine; Boot boots it.
func (l *Lab) New(ctx context.Context, opts Options) (*Machine, error) {
	l.mu.Lock()
	k := 0
	for l.used[k] != nil {
		k++
	}
	if k >= perLab {
		l.mu.Unlock()
		return nil, fmt.Errorf("this lab has %d machines already", k)
	}
	m := &Machine{
		Options: opts, lab: l, k: k,
		id:      fmt.Sprintf("%sm%d", linkPrefix(l.slot.N), k),
		dir:     filepath.Join(l.slot.Dir, fmt.Sprint(k)),
		gateway: fmt.Sprintf("198.19.%d.%d", l.slot.N, 4*k+1),
		Address: fmt.Sprintf("198.19.%d.%d", l.slot.N, 4*k+2),
	}
	l.used[k] = m
	l.mu.Unlock()
	if err := m.prepare(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot prepare machine %s: %w", opts.Name, err), m.Close())
	}
	return m, nil
}

func (l *Lab) forget(m *Machine) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.used[m.k] == m {
		delete(l.used, m.k)
	}
}

func address(slot int) string { return fmt.Sprintf("198.18.%d.1", slot) }

// linkPrefix starts the names of a slot's network links: bal0, bal1, ...
func linkPrefix(slot int) string { return fmt.Sprintf("bal%d", slot) }

// clean undoes what a slot's dead owner left. Mounts and namespaces ended with
// its processes; cgroups, links (a moment later) and the address did not.
func clean(ctx context.Context, n int, dir string) error {
	lists, err := filepath.Glob(filepath.Join(dir, "*", "cgroups"))
	if err != nil {
		return err
	}
	var faults []error
	for _, list := range lists {
		faults = append(faults, removeCgroups(ctx, list))
	}
	links, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, link := range links {
		if strings.HasPrefix(link.Name, linkPrefix(n)+"m") {
			faults = append(faults, removeLink(ctx, link.Name))
		}
	}
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return err
	}
	held, err := lo.Addrs()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(held, func(a net.Addr) bool { return a.String() == address(n)+"/32" }) {
		faults = append(faults, ip(ctx, "address", "delete", address(n)+"/32", "dev", "lo"))
	}
	return errors.Join(faults...)
}

// removeLink deletes a veth pair by one of its ends; gone already is well.
func removeLink(ctx context.Context, name string) error {
	err := ip(ctx, "link", "delete", name)
	if _, missing := net.InterfaceByName(name); missing == nil {
		return err
	}
	return nil
}

// removeCgroups kills whoever is left in the cgroups that a machine's list
// names, and removes them with all that are below.
func removeCgroups(ctx context.Context, list string) error {
	text, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, killGrace)
	defer cancel()
	var faults []error
	for _, cgroup := range strings.Fields(string(text)) {
		faults = append(faults, await.Until(ctx, cgroup+" to be empty", 20*time.Millisecond, func(context.Context) error {
			return removeCgroup(cgroup)
		}))
	}
	return errors.Join(faults...)
}

func removeCgroup(cgroup string) error {
	var folders []string
	err := filepath.WalkDir(cgroup, func(path string, entry os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if entry.IsDir() {
			folders = append(folders, path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	var faults []error
	for _, folder := range slices.Backward(folders) { // the deepest first
		procs, err := os.ReadFile(filepath.Join(folder, "cgroup.procs"))
		if err == nil {
			for _, pid := range strings.Fields(string(procs)) {
				var n int
				if _, err := fmt.Sscan(pid, &n); err == nil && n > 1 {
					_ = syscall.Kill(n, syscall.SIGKILL) // gone meanwhile is well
				}
			}
		}
		if err := syscall.Rmdir(folder); err != nil && !errors.Is(err, os.ErrNotExist) {
			faults = append(faults, fmt.Errorf("%s: %w", folder, err))
		}
	}
	return errors.Join(faults...)
}

func ip(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
