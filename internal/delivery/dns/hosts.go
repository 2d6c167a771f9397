package dns

import (
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// hostsCheck is how often the hosts file is looked at for changes.
const hostsCheck = 5 * time.Second

// hosts answers from a hosts(5) file, reading it again when it has changed. A
// file that cannot be read is an empty one, as for the C library.
type hosts struct {
	path string
	now  func() time.Time

	mu      sync.Mutex
	checked time.Time // when the file was last looked at
	mtime   time.Time
	size    int64
	names   map[string][]netip.Addr // by lower-case name
}

func (h *hosts) lookup(name string) []netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now := h.now(); h.checked.IsZero() || now.Sub(h.checked) >= hostsCheck {
		h.checked = now
		h.refresh()
	}
	return h.names[strings.ToLower(strings.TrimSuffix(name, "."))]
}

func (h *hosts) refresh() {
	info, err := os.Stat(h.path)
	if err != nil {
		h.names, h.mtime, h.size = nil, time.Time{}, 0
		return
	}
	if h.names != nil && info.ModTime().Equal(h.mtime) && info.Size() == h.size {
		return
	}
	text, err := os.ReadFile(h.path)
	if err != nil {
		h.names = nil
		return
	}
	h.names, h.mtime, h.size = parseHosts(string(text)), info.ModTime(), info.Size()
}

// parseHosts reads "address name…" lines; '#' begins a comment. Lines that
// begin with no address are passed over.
func parseHosts(text string) map[string][]netip.Addr {
	names := make(map[string][]netip.Addr)
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(fields[0])
		if err != nil {
			continue
		}
		for _, name := range fields[1:] {
			name = strings.ToLower(strings.TrimSuffix(name, "."))
			names[name] = append(names[name], addr.Unmap())
		}
	}
	return names
}
