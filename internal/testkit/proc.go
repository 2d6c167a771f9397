package testkit

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// ticksPerSecond is the unit of CPU times in /proc; Linux has fixed it at 100
// for user space.
const ticksPerSecond = 100

// Stat is what /proc says about a process.
type Stat struct {
	Pid, Parent, Group int
	Name               string
	State              string        // one letter, "Z" for a zombie
	CPU                time.Duration // user and system time of its own
	Children           time.Duration // the same of children that ended and were waited for
}

// Group returns the living processes of a process group.
func Group(group int) []Stat {
	var out []Stat
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if st, err := readStat(pid); err == nil && st.Group == group {
			out = append(out, st)
		}
	}
	return out
}

func readStat(pid int) (Stat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Stat{}, err
	}
	// The name is in parentheses and may contain anything, so look from the end.
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < 0 {
		return Stat{}, fmt.Errorf("/proc/%d/stat: no name", pid)
	}
	f := strings.Fields(string(b[end+1:]))
	if len(f) < 15 {
		return Stat{}, fmt.Errorf("/proc/%d/stat: short", pid)
	}
	n := func(i int) int {
		v, _ := strconv.Atoi(f[i])
		return v
	}
	ticks := func(i int) time.Duration { return time.Duration(n(i)) * time.Second / ticksPerSecond }
	return Stat{
		Pid: pid, Name: string(b[open+1 : end]), State: f[0], Parent: n(1), Group: n(2),
		CPU: ticks(11) + ticks(12), Children: ticks(13) + ticks(14),
	}, nil
}

// GroupCPU is the CPU time a process group has used: that of its members, and
// of children they have waited for.
func GroupCPU(group int) time.Duration {
	var sum time.Duration
	for _, st := range Group(group) {
		sum += st.CPU + st.Children
	}
	return sum
}

// GroupPSS is the memory a process group occupies, each shared page counted
// in parts (PSS), in bytes.
func GroupPSS(group int) int64 {
	var sum int64
	for _, st := range Group(group) {
		sum += pss(st.Pid)
	}
	return sum
}

func pss(pid int) int64 {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if rest, ok := strings.CutPrefix(sc.Text(), "Pss:"); ok {
			kb, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kb << 10
		}
	}
	return 0
}
