package spooltest

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
)

func batchInOrder(h *harness) {
	h.commit(1, 10, 1)
	h.apply(
		spool.Put{Key: []byte("a"), Value: []byte("1")}, spool.Delete{Key: []byte("a")}, spool.Put{Key: []byte("a"), Value: []byte("2")},
		spool.Put{Key: []byte("b"), Value: []byte("1")}, spool.Delete{Key: []byte("b")},
		spool.SetState{ID: 1, State: mail.State{HoldReason: "first"}}, spool.SetState{ID: 1, State: mail.State{HoldReason: "second"}},
	)
	for range 2 {
		h.wantKV("a", "2")
		h.wantNoKV("b")
		if m, err := h.st.Message(1); err != nil || m.State.HoldReason != "second" {
			h.Errorf("Message = %+v, %v", m, err)
		}
		h.restart()
	}
}

func asyncKeepsOrder(h *harness) {
	const n = 500
	var mu sync.Mutex
	var order []int
	last := make(chan struct{})
	for i := range n {
		h.st.ApplyAsync((&spool.Batch{}).Add(spool.Put{Key: []byte("k"), Value: fmt.Append(nil, i)}), func(err error) {
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				h.Error(err)
			}
			if order = append(order, i); len(order) == n {
				close(last)
			}
		})
	}
	<-last
	for i, v := range order {
		if i != v {
			h.Fatalf("outcome %d came at place %d", v, i)
		}
	}
	h.wantKV("k", fmt.Sprint(n-1))
	h.restart()
	h.wantKV("k", fmt.Sprint(n-1))
}

func asyncReports(h *harness) {
	h.st.ApplyAsync((&spool.Batch{}).Add(spool.Put{Key: []byte("quiet"), Value: []byte("1")}), nil)
	calls := make(chan error, 2)
	h.st.ApplyAsync((&spool.Batch{}).Add(spool.Put{Key: []byte("k"), Value: []byte("1")}), func(err error) { calls <- err })
	if err := <-calls; err != nil {
		h.Error(err)
	}
	h.wantKV("quiet", "1") // was made before
	h.close()
	if len(calls) != 0 {
		h.Error("outcome reported twice")
	}
	h.open()
	h.wantKV("k", "1")
}

func kvGetPutDelete(h *harness) {
	h.wantNoKV("k")
	h.apply(spool.Put{Key: []byte("k"), Value: []byte("v")}, spool.Put{Key: []byte("empty"), Value: nil})
	h.wantKV("k", "v")
	h.wantKV("empty", "")
	h.apply(spool.Put{Key: []byte("k"), Value: []byte("w")})
	h.wantKV("k", "w")
	h.apply(spool.Delete{Key: []byte("k")}, spool.Delete{Key: []byte("never there")})
	h.wantNoKV("k")
	v, err := h.st.Get([]byte("empty"))
	h.must(err)
	_ = append(v, "the caller's own"...)
	h.wantKV("empty", "")
}

func kvScan(h *harness) {
	h.commit(1, 10, 1) // must not show
	for _, k := range []string{"b", "a/2", "a/1", "a", "c", "\xff\xff", "a/10"} {
		h.apply(spool.Put{Key: []byte(k), Value: []byte("=" + k)})
	}
	scan := func(from, to string, limit int) string {
		var got []string
		err := h.st.Scan([]byte(from), []byte(to), func(k, v []byte) bool {
			if string(v) != "="+string(k) {
				h.Errorf("value of %q is %q", k, v)
			}
			got = append(got, string(k))
			return len(got) < limit
		})
		h.must(err)
		return strings.Join(got, " ")
	}
	for range 2 {
		for _, c := range []struct {
			from, to string
			limit    int
			want     string
		}{
			{"a/", "a0", 99, "a/1 a/10 a/2"},
			{"a", "b", 99, "a a/1 a/10 a/2"},
			{"a/1", "a/1", 99, ""},
			{"", "\xff\xff\xff", 99, "a a/1 a/10 a/2 b c \xff\xff"},
			{"a/10", "c", 2, "a/10 a/2"},
			{"d", "e", 99, ""},
		} {
			if got := scan(c.from, c.to, c.limit); got != c.want {
				h.Errorf("Scan(%q, %q) up to %d = %q, want %q", c.from, c.to, c.limit, got, c.want)
			}
		}
		h.restart()
	}
}

func kvIsRecovered(h *harness) {
	h.apply(spool.Put{Key: []byte("stays"), Value: []byte("1")}, spool.Put{Key: []byte("goes"), Value: []byte("1")})
	h.restart()
	h.apply(spool.Delete{Key: []byte("goes")}, spool.Put{Key: []byte("new"), Value: []byte("2")})
	for range 2 {
		h.restart()
		h.wantKV("stays", "1")
		h.wantKV("new", "2")
		h.wantNoKV("goes")
	}
	err := h.st.Apply(context.Background(), &spool.Batch{})
	if err != nil {
		h.Errorf("empty batch: %v", err)
	}
}
