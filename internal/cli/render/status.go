// Package render shows what an operator asked for to people and to programs.
//
// Tables are for people and may change; JSON keeps its names, new ones may
// come. Errors are those of the writer.
package render

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/operator"
)

// shownDestinations is how many lines of destinations a person gets to see.
const shownDestinations = 20

// queueNames are the queues in the order in which status shows them.
func queueNames() []mail.QueueName {
	return []mail.QueueName{mail.Maildrop, mail.Incoming, mail.Active, mail.Deferred, mail.Hold, mail.Corrupt, mail.Trash}
}

// Status writes how a server stands as a table, the busiest destinations first.
func Status(w io.Writer, st *operator.Status) error {
	busiestFirst(st.Destinations)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "posthouse %s\tPID %d\tup %s\n", st.Version, st.PID, st.Uptime.Round(time.Second))
	fmt.Fprintf(t, "configuration\t%s\n", st.ConfigDir)
	fmt.Fprintf(t, "disk\t%s free\t%s taken by mail (%s live)\n\n", bytesText(st.Space.Free), bytesText(st.Space.Used), bytesText(st.Space.Live))
	fmt.Fprintf(t, "QUEUE\tMESSAGES\tSIZE\n")
	for _, q := range queueNames() {
		fmt.Fprintf(t, "%s\t%d\t%s\n", q, st.Counts.Messages[q], bytesText(st.Counts.Bytes[q]))
	}
	if len(st.Destinations) > 0 {
		fmt.Fprintf(t, "\nDESTINATION\tDUE\tRUNNING\tDEFERRED\tWINDOW\tSTATE\n")
	}
	for i, d := range st.Destinations {
		if i == shownDestinations {
			fmt.Fprintf(t, "… and %d more\n", len(st.Destinations)-i)
			break
		}
		state := "alive"
		if !d.DeadUntil.IsZero() {
			state = "dead until " + d.DeadUntil.Local().Format(time.TimeOnly) + ": " + d.DeadReason
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%s\n", d.Destination, d.Waiting, d.Running, d.Deferred, d.Window, state)
	}
	return t.Flush()
}

func busiestFirst(list []operator.DestinationView) {
	slices.SortFunc(list, func(a, b operator.DestinationView) int {
		return cmp.Or(cmp.Compare(b.Waiting+b.Running+b.Deferred, a.Waiting+a.Running+a.Deferred), strings.Compare(a.Destination.String(), b.Destination.String()))
	})
}

// bytesText is a size for people.
func bytesText(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, u := float64(n)/1024, 0
	for v >= 1024 && u < len(units)-1 {
		v, u = v/1024, u+1
	}
	return fmt.Sprintf("%.1f %ciB", v, units[u])
}

// The JSON of status: names are ours to keep, so they are not those of the
// Go types.
type (
	statusDoc struct {
		Version      string           `json:"version"`
		PID          int              `json:"pid"`
		Started      time.Time        `json:"started"`
		Uptime       float64          `json:"uptime_seconds"`
		ConfigDir    string           `json:"config_directory"`
		Queues       []queueDoc       `json:"queues"`
		Destinations []destinationDoc `json:"destinations"`
		Space        spaceDoc         `json:"space"`
	}
	queueDoc struct {
		Name     mail.QueueName `json:"name"`
		Messages int            `json:"messages"`
		Bytes    int64          `json:"bytes"`
	}
	destinationDoc struct {
		Destination string    `json:"destination"`
		Due         int       `json:"due"`
		Running     int       `json:"running"`
		Deferred    int       `json:"deferred"`
		Window      int       `json:"window"`
		DeadUntil   time.Time `json:"dead_until,omitzero"`
		DeadReason  string    `json:"dead_reason,omitempty"`
	}
	spaceDoc struct {
		Free    int64 `json:"free_bytes"`
		Reserve int64 `json:"reserve_bytes"`
		Used    int64 `json:"used_bytes"`
		Live    int64 `json:"live_bytes"`
	}
)

// StatusJSON writes the same as one JSON object.
func StatusJSON(w io.Writer, st *operator.Status) error {
	busiestFirst(st.Destinations)
	doc := statusDoc{
		Version: st.Version, PID: st.PID, Started: st.Started, Uptime: st.Uptime.Seconds(), ConfigDir: st.ConfigDir,
		Queues: []queueDoc{}, Destinations: []destinationDoc{}, Space: spaceDoc(st.Space),
	}
	for _, q := range queueNames() {
		doc.Queues = append(doc.Queues, queueDoc{q, st.Counts.Messages[q], st.Counts.Bytes[q]})
	}
	for _, d := range st.Destinations {
		doc.Destinations = append(doc.Destinations, destinationDoc{d.Destination.String(), d.Waiting, d.Running, d.Deferred, d.Window, d.DeadUntil, d.DeadReason})
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(&doc)
}
