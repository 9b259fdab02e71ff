package queue
import ("testing";"os";"os/exec";"time";"path/filepath";"log/slog")
func TestFull(t *testing.T){
 dir:=t.TempDir()
 if out,err:=exec.Command("mount","-t","tmpfs","-o","size=6m","tmpfs",dir).CombinedOutput();err!=nil{t.Skip(string(out))}
 defer exec.Command("umount","-l",dir).Run()
 s,err:=StartServer(ServerOptions{StoreDir:filepath.Join(dir,"nats"),Addr:anyPort,Token:testToken,Logger:slog.New(slog.NewTextHandler(os.Stderr,nil))})
 if err!=nil{t.Fatal(err)}
 defer s.Shutdown()
 c:=connected(t,s,"")
 l:=newLedger()
 spool:=newSpool()
 big:=filepath.Join(dir,"big")
 in:=ingest(t,c,l,nil)
 eventually(t,"x",func()bool{return in.r.Stats().Rebuilt>0})
 p:=publishing(t,connected(t,s,testAgent),spool,fast)
 spool.append(100)
 eventually(t,"first",l.has(100))
 f,_:=os.Create(big); n:=0
 for { k,err:=f.Write(make([]byte,4096)); n+=k; if err!=nil{break} }
 f.Close()
 t.Log("filled",n)
 for range 20 { spool.append(50); time.Sleep(100*time.Millisecond)}
 t.Log(p.Stats(), s.Health())
 os.Remove(big)
 eventually(t,"rest",l.has(1100))
 t.Log(s.Health(), p.Stats())
}
